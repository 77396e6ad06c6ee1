"""``python -m studies.unequal``, from the root of the repository."""

from studies.unequal.study import main

if __name__ == "__main__":
    main()
