"""What people bring to the site, and what the tasks make of it."""

from __future__ import annotations

import uuid

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

# Longest edge of each thumbnail, in pixels.
THUMBNAIL_SIZES = (160, 320, 640)


def picture_path(picture: Picture, filename: str) -> str:
    """Name the stored file by the picture, never by what the visitor called it."""
    return f"pictures/{picture.pk}{picture.extension}"


def sheet_path(sheet: AirportSheet, filename: str) -> str:
    """Name the stored file by the sheet, never by what the visitor called it."""
    return f"sheets/{sheet.pk}.csv"


class Picture(models.Model):
    """A picture somebody uploaded."""

    EXTENSIONS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    title = models.CharField(max_length=80)
    # As Pillow recognised it; the visitor's file name and content type are not trusted.
    format = models.CharField(max_length=4, choices=[(name, name) for name in EXTENSIONS])
    image = models.FileField(upload_to=picture_path)
    uploaded_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-uploaded_at"]

    def __str__(self) -> str:
        return self.title

    @property
    def extension(self) -> str:
        return self.EXTENSIONS[self.format]


class Thumbnail(models.Model):
    """A picture made smaller, one row per size."""

    picture = models.ForeignKey(Picture, on_delete=models.CASCADE, related_name="thumbnails")
    size = models.PositiveSmallIntegerField()
    image = models.FileField()
    width = models.PositiveSmallIntegerField()
    height = models.PositiveSmallIntegerField()

    class Meta:
        ordering = ["size"]
        constraints = [
            models.UniqueConstraint(fields=["picture", "size"], name="one_thumbnail_per_size")
        ]

    def __str__(self) -> str:
        return f"{self.width} × {self.height}"


class AirportSheet(models.Model):
    """A CSV file of airports, kept until a task has read it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    file = models.FileField(upload_to=sheet_path)
    uploaded_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return str(self.file.name)


class Airport(models.Model):
    """An airport, found again by its code when a sheet is imported twice."""

    iata = models.CharField("code", max_length=4, unique=True)
    name = models.CharField(max_length=120)
    city = models.CharField(max_length=80, blank=True)
    state = models.CharField(max_length=40, blank=True)
    country = models.CharField(max_length=80)
    latitude = models.FloatField(validators=[MinValueValidator(-90), MaxValueValidator(90)])
    longitude = models.FloatField(validators=[MinValueValidator(-180), MaxValueValidator(180)])

    COLUMNS = ("iata", "name", "city", "state", "country", "latitude", "longitude")

    class Meta:
        ordering = ["iata"]

    def __str__(self) -> str:
        return f"{self.iata} {self.name}"


class Delivery(models.Model):
    """A webhook: what we send, and what its receiver, here the site itself, has seen of it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    event = models.CharField(max_length=60)
    # The receiver answers 503 this many times before it accepts.
    failures = models.PositiveSmallIntegerField(default=2)
    requests = models.PositiveSmallIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    received_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        verbose_name_plural = "deliveries"

    def __str__(self) -> str:
        return self.event
