from __future__ import annotations

from django.db import models


class Customer(models.Model):
    email = models.EmailField()

    def __str__(self) -> str:
        return self.email


class Order(models.Model):
    customer = models.ForeignKey(Customer, models.CASCADE, null=True)
    state = models.CharField(max_length=20, default="new")
    total = models.DecimalField(max_digits=10, decimal_places=2, default=0)
    confirmed_at = models.DateTimeField(null=True)
    charge_id = models.CharField(max_length=80, default="")

    def __str__(self) -> str:
        return f"order {self.pk}"
