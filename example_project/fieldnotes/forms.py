"""The forms of the page, and what they refuse."""

from __future__ import annotations

import csv
import io
from typing import Any

from django import forms
from django.contrib.auth import get_user_model
from django.contrib.auth.forms import UserCreationForm
from django.core.files.uploadedfile import UploadedFile
from django.template.defaultfilters import filesizeformat
from PIL import Image

from .models import Airport, Picture

MAX_PICTURE_BYTES = 8 * 1024 * 1024
# A small file can unpack to a very large picture; Pillow reads the size without unpacking.
MAX_PICTURE_PIXELS = 40_000_000
MAX_SHEET_BYTES = 2 * 1024 * 1024


class PictureForm(forms.Form):
    """A picture to make thumbnails of."""

    title = forms.CharField(max_length=80)
    file = forms.FileField(
        label="Picture",
        help_text="JPEG, PNG or WebP, up to 8 MB.",
        widget=forms.FileInput(attrs={"accept": "image/jpeg,image/png,image/webp"}),
    )

    def clean_file(self) -> UploadedFile:
        """Accept what Pillow recognises and can verify, whatever the file is called."""
        file: UploadedFile = self.cleaned_data["file"]
        _check_size(file, MAX_PICTURE_BYTES)
        try:
            with Image.open(file, formats=list(Picture.EXTENSIONS)) as image:
                self.format: str = image.format or ""
                width, height = image.size
                image.verify()
        except Exception as error:  # Pillow raises many kinds of errors on broken files
            raise forms.ValidationError("This is not a picture that can be read.") from error
        if width * height > MAX_PICTURE_PIXELS:
            raise forms.ValidationError("The picture has too many pixels.")
        file.seek(0)
        return file


class SignUpForm(UserCreationForm):
    """Django's own sign-up form, with the address that the welcome mail goes to."""

    email = forms.EmailField(max_length=254)

    class Meta(UserCreationForm.Meta):
        model = get_user_model()
        fields = ("username", "email")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The errors say what is wrong; four paragraphs of help would hide the form.
        for field in self.fields.values():
            field.help_text = ""
        self.fields["username"].widget.attrs.pop("autofocus", None)


class SheetForm(forms.Form):
    """A CSV file of airports; without one, the sample of the repository is read."""

    file = forms.FileField(
        label="CSV file",
        required=False,
        help_text="Without a file, the 3,376 airports of the sample are read.",
        widget=forms.FileInput(attrs={"accept": ".csv,text/csv"}),
    )
    slowly = forms.BooleanField(
        label="Slowly, to watch it",
        required=False,
        initial=True,
        help_text="Half a second of rest after each batch of rows.",
    )

    def clean_file(self) -> UploadedFile | None:
        """Accept a text with the right columns; what its rows hold is the task's to judge."""
        file: UploadedFile | None = self.cleaned_data["file"]
        if file is None:
            return None
        _check_size(file, MAX_SHEET_BYTES)
        try:
            text = file.read().decode("utf-8-sig")
            columns = next(csv.reader(io.StringIO(text)), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise forms.ValidationError("This is not a CSV file in UTF-8.") from error
        if "\0" in text:
            raise forms.ValidationError("This is not a CSV file in UTF-8.")
        if missing := [name for name in Airport.COLUMNS if name not in columns]:
            raise forms.ValidationError(f"These columns are missing: {', '.join(missing)}.")
        file.seek(0)
        return file


class WebhookForm(forms.Form):
    """An event to deliver, and how unreliable its receiver shall be."""

    event = forms.CharField(max_length=60, initial="picture.published")
    failures = forms.IntegerField(
        label="Failures first",
        min_value=0,
        max_value=9,
        initial=2,
        help_text="Five attempts are made, so five failures or more fail the task.",
    )


def _check_size(file: UploadedFile, limit: int) -> None:
    if file.size is None or file.size > limit:
        raise forms.ValidationError(f"The file is larger than {filesizeformat(limit)}.")
