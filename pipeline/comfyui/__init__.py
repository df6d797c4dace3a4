"""Node graphs of ComfyUI that remove a background, interpreted as cutouts.

    document  --ui_format-->  graph  --validation-->  ValidatedGraph  --interpreter-->  Workflow
    UI format                 API format              converted values                  CutoutSpecs

No graph is executed: each supported output is one cutout or mask of one photo, made with one model and
one preset. Other outputs are refused in ComfyUI's error shape.
"""
