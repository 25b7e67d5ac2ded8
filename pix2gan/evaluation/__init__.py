"""How good translations are.

``metrics``: PSNR, SSIM, L1 and the sliced Wasserstein distance of tensors. ``report``: scores of a
folder of translated images against the real ones. ``held_out``: scores of a translator on pairs
that it was not trained on. ``scores``: what the last two share.
"""
