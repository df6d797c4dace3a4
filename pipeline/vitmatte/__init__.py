"""ViTMatte: the alpha of a soft edge, from the pixels of the full size and a trimap.

J. Yao et al., ViTMatte: Boosting Image Matting with Pretrained Plain Vision Transformers, 2023
(arXiv:2305.15272). The network is transformers' own; only its weights come from elsewhere.
"""
