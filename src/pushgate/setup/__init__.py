"""A first configuration: what lies in a folder, what is chosen, and the files that are made of it.

    found       keys and service accounts that lie in the folder
    plan        what was chosen, from flags and answers
    authority   a development CA with certificates for both sides
    text        the configuration, commented
    writing     all files at once, loaded before they are put in place

Starts nothing and asks nobody but who sits at the terminal.
"""

from pushgate.setup.plan import Answers, Asker, Missing, Plan, choose
from pushgate.setup.writing import Written, write

__all__ = ["Answers", "Asker", "Missing", "Plan", "Written", "choose", "write"]
