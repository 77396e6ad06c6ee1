"""``python -m studies.f2c``, from the root of the repository."""

from studies.f2c.study import main

if __name__ == "__main__":
    main()
