"""What more calibration text buys, and whether it ever costs: types held, from 10,000 tokens to all that ships.

Run it: python benchmarks/evidence.py [--model smollm2] [--type Q3_K_M] [--tokens 10240,25600,51200,102400,0]
                                      [--second-text] [--chunks 24] [--threads 2] [--peer LLAMA_IMATRIX]

For every number of tokens (0 takes the whole text): llama_model_quantize with the importance of the same tokens, and
`--effort balanced` with the same types; mean KL divergence on text that took no part, as in benchmarks/fidelity.py,
whose columns these are. With --second-text tokens are of Python's reference manual and of its modules
(benchmarks/second_text.py), not of the shipped text. The rows are kept in benchmarks/history/.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import arguments
import history
from fidelity import Bench, bench_parser, found
from second_text import NAME, second_text

from ggufkit.fitting.encoders import Effort


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--model", type=arguments.real_model, default="smollm2")
    parser.add_argument("--type", type=arguments.mixture, default="Q3_K_M")
    parser.add_argument("--tokens", type=arguments.listed(arguments.count_or_0), default="10240,25600,51200,102400,0")
    parser.add_argument("--second-text", action="store_true", help="instead of the shipped one")
    options = parser.parse_args()
    text = second_text() if options.second_text else None
    for n in options.tokens:
        with tempfile.TemporaryDirectory() as folder:
            options.tokens = n
            bench = Bench(options.model, found(options.model), Path(folder), options, text)
            kept = bench.held(options.type, Effort.BALANCED)
        command = f"benchmarks/evidence.py --model {options.model} --type {options.type} --tokens {n}"
        kept = dataclasses.replace(kept, command=command)
        if options.second_text:
            kept = dataclasses.replace(kept, figure=f"{kept.figure}, {NAME}", command=f"{command} --second-text")
        history.keep(history.CLOSENESS, history.machine(), [kept])


if __name__ == "__main__":
    arguments.run(main)
