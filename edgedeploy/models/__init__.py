"""The networks this project brings, in plain torch."""
