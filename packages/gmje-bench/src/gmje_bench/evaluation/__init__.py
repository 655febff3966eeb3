"""Evaluation of trained encoders by tasks, in a run or of any model without training it again."""
