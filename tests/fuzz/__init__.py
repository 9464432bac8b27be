"""Bad input by the thousand: what every decoder and parser does with bytes that mean nothing.

The suite tries some of each (tests/unit/test_bad_input.py); `python -m tests.fuzz` goes on for as
long as it is told, led by the coverage that atheris measures.
"""
