"""What a bundle says to readers in other languages."""
