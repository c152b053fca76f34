"""What stands on a feature map, keeps its shape and draws its attention."""
