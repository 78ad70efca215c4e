"""The stores that corank comes with, a file each; `STORES` imports them all."""
