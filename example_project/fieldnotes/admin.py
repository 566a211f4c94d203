"""The site's own rows; the tasks have their admin in django_taskq."""

from __future__ import annotations

from django.contrib import admin

from .models import Airport, AirportSheet, Delivery, Picture, Thumbnail


class ThumbnailInline(admin.TabularInline):
    model = Thumbnail
    extra = 0
    readonly_fields = ["size", "image", "width", "height"]
    can_delete = False

    def has_add_permission(self, request: object, obj: object = None) -> bool:
        return False


@admin.register(Picture)
class PictureAdmin(admin.ModelAdmin):
    list_display = ["title", "format", "uploaded_at"]
    search_fields = ["title"]
    readonly_fields = ["image", "format", "uploaded_at"]
    inlines = [ThumbnailInline]

    def has_add_permission(self, request: object) -> bool:
        return False  # the page checks what is uploaded


@admin.register(Airport)
class AirportAdmin(admin.ModelAdmin):
    list_display = ["iata", "name", "city", "state", "country"]
    list_filter = ["state"]
    search_fields = ["iata", "name", "city"]


@admin.register(AirportSheet)
class AirportSheetAdmin(admin.ModelAdmin):
    list_display = ["file", "uploaded_at"]
    readonly_fields = ["file", "uploaded_at"]

    def has_add_permission(self, request: object) -> bool:
        return False  # the page checks what is uploaded


@admin.register(Delivery)
class DeliveryAdmin(admin.ModelAdmin):
    list_display = ["event", "requests", "failures", "created_at", "received_at"]
    readonly_fields = ["created_at"]
