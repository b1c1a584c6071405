"""From video files to features: frames, encoders of images and of sound."""
