"""Images in and out, and the data sets that training reads.

``image_io`` opens and saves images, ``transforms`` fits and augments them, ``sketch`` draws lines
from photos, ``paired`` is the data set of pairs, ``sampler`` and ``loader`` feed it to training.
"""
