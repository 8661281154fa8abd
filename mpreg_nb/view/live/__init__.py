"""The views of a live panel.

Each view turns values of the client into a picture (plain data), and the picture into
a drawing, a table of text and a frame, so that these cannot differ. No view asks the
cluster for anything.
"""
