"""What a stage of an encoder or decoder is made of."""
