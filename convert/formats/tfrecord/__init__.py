"""TFRecord files of TensorFlow's trainers."""
