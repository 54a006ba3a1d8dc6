"""What is known about faces: masks and their classes, landmarks, components, augmentation."""
