"""The part of ComfyUI's HTTP interface that scripts use, implemented on jobs (infra/docs/comfyui.md)."""
