# See docs/distributed.md, "Docker".
FROM python:3.12-slim

WORKDIR /app
COPY requirements.txt ./
COPY requirements/constraints.txt requirements/
RUN pip install --no-cache-dir -r requirements.txt
# .dockerignore says which files these are.
COPY . .

# A number, so that Kubernetes can see that it is not root.
RUN useradd --uid 1000 --create-home yt8m
USER 1000
ENTRYPOINT ["python"]
CMD ["train.py"]
