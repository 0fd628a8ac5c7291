# A CPU image that is made by the same two commands as any machine.
#   docker build -t affectgpt-r1 .                      environment, without tests
#   docker run --rm affectgpt-r1 make test
#   docker run --rm -v "$PWD/out:/work/out" affectgpt-r1 make demo DEMO=out/demo
#   docker run --rm -v "$PWD:/data" affectgpt-r1 affectgpt-r1 score /data/predictions.jsonl
FROM python:3.11-slim

RUN apt-get update \
 && apt-get install --yes --no-install-recommends make \
 && rm -rf /var/lib/apt/lists/*

ENV PIP_NO_CACHE_DIR=1
WORKDIR /work
# The environment first, from what it is made of: a change of a document does not install it again.
COPY pyproject.toml Makefile README.md LICENSE ./
COPY src ./src
COPY demo ./demo
COPY reproduction ./reproduction
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN make env TORCH_INDEX="$TORCH_INDEX"

COPY . .
# A copied file is as old as it was outside; the environment is complete all the same.
RUN touch .venv/.complete
ENV PATH="/work/.venv/bin:$PATH"
CMD ["affectgpt-r1", "doctor"]
