"""How the shipped checkpoint was taught. In neither the wheel nor the images."""
