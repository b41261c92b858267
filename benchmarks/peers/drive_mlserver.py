"""MLServer with the keyword model: drive_mlserver.py HTTP_PORT GRPC_PORT MODEL.tflite.

A runtime of its own, as its documentation shows: quantise, run, dequantise. Without
its parallel workers and its metrics, which would cost it more.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Keywords(MLModel):
    """Features in, scores out."""

    async def load(self) -> bool:
        """Open the model."""
        content = Path(sys.argv[3]).read_bytes()
        self._interpreter = Interpreter(model_content=content, num_threads=1)
        self._interpreter.allocate_tensors()
        (source,) = self._interpreter.get_input_details()
        (target,) = self._interpreter.get_output_details()
        self._in, self._in_scale = source["index"], source["quantization"]
        self._out, self._out_scale = target["index"], target["quantization"]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request."""
        features = NumpyCodec.decode_input(payload.inputs[0])
        scale, zero = self._in_scale
        integers = np.clip(np.rint(features / np.float32(scale)) + zero, -128, 127)
        self._interpreter.set_tensor(self._in, integers.astype(np.int8)[..., None])
        self._interpreter.invoke()
        scale, zero = self._out_scale
        answers = self._interpreter.get_tensor(self._out).astype(np.float64)
        output = NumpyCodec.encode_output("value", (answers - zero) * scale)
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main() -> None:
    """Serve until killed."""
    settings = Settings(
        host="127.0.0.1",
        http_port=int(sys.argv[1]),
        grpc_port=int(sys.argv[2]),
        metrics_endpoint=None,
        parallel_workers=0,
        debug=False,
    )
    model = ModelSettings(name="keywords", implementation=Keywords)
    await MLServer(settings).start(models_settings=[model])


if __name__ == "__main__":
    asyncio.run(main())
