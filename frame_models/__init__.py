"""Models on the frames of a video, from the literature of this field."""
