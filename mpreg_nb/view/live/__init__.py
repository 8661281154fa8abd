"""Live views: each a picture (plain data), and what is made of it.

A picture is what a script draws, a table tells and a frame holds, so that they
cannot disagree. Making one reads values that are given; it asks nobody.
"""
