"""Follow each page of the documentation as a reader would: every block of code has a treatment.

What happens to a block follows from its language. A comment above it, which no reader sees, says
otherwise. CONTRIBUTING.md has the list; `python -m tests.docs` counts what happens to how many
blocks, and lists those that nothing can run with their reasons.
"""
