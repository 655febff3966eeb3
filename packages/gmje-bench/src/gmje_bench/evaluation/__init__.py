"""Evaluation of any model by the tasks, without training it again."""
