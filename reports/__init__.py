"""Pages and tables that people read: what was predicted, what data holds."""
