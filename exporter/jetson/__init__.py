"""What a Jetson board needs to build a bundle's plans itself."""
