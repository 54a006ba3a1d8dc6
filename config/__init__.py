"""What a run is: the options, the presets that set them, and the rules they obey."""
