# moco_tf on the CPU, current lane. Written for Docker; not built or run yet.
#
#   docker build -t moco_tf .
#   docker run --rm -v "$PWD/runs:/moco/runs" moco_tf train
#   docker run --rm -v "$PWD/runs:/moco/runs" -v PHOTOS:/photos:ro moco_tf \
#       train --config folder_photos --data.data_dir=/photos
FROM python:3.12.12-slim-bookworm

WORKDIR /source
COPY pyproject.toml constraints-current.txt README.md LICENSE ./
COPY configs ./configs
COPY moco_tf ./moco_tf
RUN pip install --no-cache-dir --constraint constraints-current.txt '.[detect,onnx]'

WORKDIR /moco
ENTRYPOINT ["moco-tf"]
CMD ["--help"]
