"""`python -m unet4d` is `unet4d`."""

from unet4d.cli import main

if __name__ == "__main__":
    main()
