# The orchestrator alone: plans, rents, keeps the bill. Training happens on the machines that it rents; this image has no torch.
#
#   docker build -t lumina .
#   docker run --rm -it -v lumina:/home/lumina/data -e VAST_API_KEY lumina plan b7 --arch mod
#
# Without the pages: `lumina ui` listens on the container's own loopback address, which no published port reaches, and it is meant so.
# `lumina report --out /home/lumina/data/report.html` writes a page to look at; the pages of the same ledger are those of an installation
# beside it (pip install 'lumina-cloud[ui]') with LUMINA_HOME on the volume's folder, or with the LUMINA_LEDGER_URL of a team's server.
#
# Everything is kept in the volume. For a service that drives runs:  docker run -d --restart unless-stopped ... lumina controller
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY lumina_cloud lumina_cloud
COPY providers providers
COPY trainer trainer
COPY templates templates
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
RUN useradd --create-home --uid 1000 lumina
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(ls /wheels/*.whl)[postgres,sandbox]" && rm -rf /wheels
USER lumina
ENV LUMINA_HOME=/home/lumina/data
RUN mkdir /home/lumina/data
VOLUME /home/lumina/data
ENTRYPOINT ["lumina"]
CMD ["--help"]
