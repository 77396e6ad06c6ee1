"""``python -m studies.margins``, from the root of the repository."""

from studies.margins.study import main

if __name__ == "__main__":
    main()
