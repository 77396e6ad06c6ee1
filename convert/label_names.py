"""What the label of an image is called where things have names of the writer's choice.

Columns of a CSV or Parquet file, features of a TFRecord: lower case; of several, the first counts.
"""

LABEL_NAMES = (
    *("label", "labels", "cls", "identity", "person", "subject", "class", "target"),
    *("identity_id", "person_id", "subject_id", "class_id", "label_id"),
)
