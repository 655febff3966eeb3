"""Sections of the page: a module each, with a function from a run to blocks.

A function gives nothing where the run lacks its inputs. Where several seeds have artifacts, the first is shown.
"""
