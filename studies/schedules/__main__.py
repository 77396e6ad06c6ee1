"""``python -m studies.schedules``, from the root of the repository."""

from studies.schedules.study import main

if __name__ == "__main__":
    main()
