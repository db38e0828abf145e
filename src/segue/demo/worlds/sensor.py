"""What camera and file format do to the light of a scene."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from segue.demo.worlds.worlds import Sensor

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def expose(
    light: NDArray[np.float32], sensor: Sensor, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Pictures [H, W, 3] of 0 to 1 (more where overexposed) as a camera's file holds them."""
    height, width = light.shape[:2]
    sigma = float(rng.uniform(*sensor.blur)) * width / 256
    if sigma:
        light = np.asarray(cv2.GaussianBlur(light, (0, 0), sigma), dtype=np.float32)
    if sensor.vignette:
        y, x = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
        fall = 1.0 - sensor.vignette * (y[:, None] ** 2 + x[None] ** 2) / 2
        light = (light * fall[..., None]).astype(np.float32)
    light = np.clip(light * np.float32(rng.uniform(*sensor.exposure)), 0, 1)
    light = np.power(light, np.float32(rng.uniform(*sensor.gamma)), dtype=np.float32)
    luma = np.asarray(light @ LUMA, dtype=np.float32)[..., None]
    light = luma + (light - luma) * np.float32(rng.uniform(*sensor.saturation))
    middle = np.float32(0.5)
    light = middle + (light - middle) * np.float32(rng.uniform(*sensor.contrast))
    light = light * np.float32(1 - sensor.black / 255) + np.float32(sensor.black / 255)
    light *= np.array(sensor.tint, dtype=np.float32)
    deviation = np.float32(rng.uniform(*sensor.noise) / 255)
    if deviation:
        light += rng.standard_normal(light.shape, dtype=np.float32) * deviation
    exposed = np.rint(np.clip(light, 0.0, 1.0) * 255).astype(np.uint8)
    if not sensor.jpeg:
        return exposed
    coded = cv2.imencode(".jpg", exposed[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, sensor.jpeg])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), dtype=np.uint8)[..., ::-1].copy()
