"""Background removal in a web application's own process: uvicorn app:app"""

from fastapi import FastAPI, HTTPException, Response, UploadFile

from bgpipe import BackgroundRemover
from bgpipe.pipeline.errors import ItemError

app = FastAPI()
remover = BackgroundRemover(preset="products")


@app.post("/cutout")
def cutout(photo: UploadFile) -> Response:  # not async: runs in a thread, beside other requests
    try:
        return Response(remover.file(photo.file.read()), media_type="image/png")
    except ItemError as error:
        raise HTTPException(422, str(error)) from error
