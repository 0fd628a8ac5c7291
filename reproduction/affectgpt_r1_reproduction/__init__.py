"""The paper's findings at a size anyone can run: settings x seeds to verdicts (docs/reproduction).

A package beside the library, like the demo: it calls training, prediction and score as a user
would, and adds nothing to them.
"""
