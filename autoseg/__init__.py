"""autoseg: self-configuring segmentation for medical and remote-sensing images."""

__version__ = "0.1.0"
