"""Side-by-side timings of pix2gan and what a user would pick instead. See README.md."""
