"""What an image file shows: the one reading of it that training, serving and drawing share."""
