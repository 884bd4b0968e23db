"""Training of this project's keyword models: recipe, augmentation, loop, and what they are held against."""
