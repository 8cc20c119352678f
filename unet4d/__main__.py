"""`python -m unet4d` is `unet4d`."""

import sys

if __name__ == "__main__":
    try:
        from unet4d.cli.main import main
    except ModuleNotFoundError as error:
        from unet4d.errors import InputError, not_installed

        print(f"unet4d: {not_installed(error)}", file=sys.stderr)
        sys.exit(InputError.exit_code)
    main()
