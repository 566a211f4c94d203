"""What all pages share: they show, they do not change."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString

from django_taskq.router import database_of_tasks

# The stubs have type parameters where the classes have none.
if TYPE_CHECKING:
    _Paginator = Paginator[Any]
    _ModelAdmin = admin.ModelAdmin[Any]
else:
    _Paginator = Paginator
    _ModelAdmin = admin.ModelAdmin

# Counting stops here: an exact count reads the whole table.
_COUNT_LIMIT = 10_000


class CappedPaginator(_Paginator):
    """Count no further than 10,000 rows."""

    @cached_property
    def count(self) -> int:
        rows = self.object_list
        assert isinstance(rows, QuerySet)
        return rows.order_by()[:_COUNT_LIMIT].count()


class LightChangeList(ChangeList):
    """Leave in the database what a list does not show: it may be large, or hold anything."""

    def get_queryset(self, *args: Any, **kwargs: Any) -> QuerySet[Any]:
        unlisted: tuple[str, ...] = getattr(self.model_admin, "unlisted", ())
        return super().get_queryset(*args, **kwargs).defer(*unlisted)


class ReadOnlyAdmin(_ModelAdmin):
    """Show rows to those who may view them."""

    # Columns that the pages of one row show, and lists do not.
    unlisted: tuple[str, ...] = ()
    paginator = CappedPaginator
    show_full_result_count = False
    list_per_page = 50
    actions = None

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Read where the tasks are kept, whatever the project's routers say."""
        return super().get_queryset(request).using(database_of_tasks())

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return LightChangeList

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


def preformatted(value: Any, *, hide: Callable[[str], str] = str) -> SafeString:
    """Show a JSON value, escaped, as it would be written by hand; `hide` masks secrets in it."""
    text = hide(json.dumps(value, indent=2, ensure_ascii=False))
    return format_html('<pre style="white-space: pre-wrap; margin: 0">{}</pre>', text)
