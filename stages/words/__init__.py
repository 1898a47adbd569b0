"""A text-to-image task whose reward nobody here wrote: short words on small pictures, which OCR reads.

Words take a letter from a list for each place, so all are pronounceable, and one that is held out asks for nothing new
but the combination.
"""
