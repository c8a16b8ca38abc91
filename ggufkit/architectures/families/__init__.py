"""The table of model families. A new family is one entry in a file beside this one, and its classes are then known
everywhere.

Data only: sizes and rules come from `family` and `hparams`, bends are built in `bends`.
Sources: the classes of llama.cpp's converter at 0c1e57098 and llama-model.cpp's lists of tensors; defaults are those
of the configuration classes of transformers 5.23.
"""

from ggufkit.architectures.families.cohere import COHERE2, COMMAND_R
from ggufkit.architectures.families.deepseek import DEEPSEEK, GLM47_FLASH, MISTRAL4
from ggufkit.architectures.families.gemma import GEMMA2, GEMMA3
from ggufkit.architectures.families.gemma3n import GEMMA3N
from ggufkit.architectures.families.gemma4 import GEMMA4
from ggufkit.architectures.families.glm import GLM4, GLM4_MOE
from ggufkit.architectures.families.gpt_oss import GPT_OSS
from ggufkit.architectures.families.hybrids import FALCON_H1, GRANITE4, GRANITE_HYBRID
from ggufkit.architectures.families.lfm2 import LFM2, LFM2_MOE
from ggufkit.architectures.families.llama import LLAMA, MISTRAL, MIXTRAL
from ggufkit.architectures.families.llama_kin import GRANITE, GRANITE_MOE, MINISTRAL3, SMOLLM3
from ggufkit.architectures.families.mixtures import DOTS1, ERNIE, ERNIE_MOE, EXAONE4, HUNYUAN_DENSE, LLAMA4
from ggufkit.architectures.families.nemotron import NEMOTRON_H, NEMOTRON_H_MOE
from ggufkit.architectures.families.olmo import OLMO2, OLMOE
from ggufkit.architectures.families.others import MINIMAX_M2, SEED_OSS, STARCODER2
from ggufkit.architectures.families.phi import PHI2, PHI3
from ggufkit.architectures.families.qwen import QWEN2, QWEN2_MOE, QWEN3, QWEN3_MOE
from ggufkit.architectures.families.qwen_next import QWEN3_NEXT, QWEN35, QWEN35_MOE

FAMILIES = (
    LLAMA,
    MISTRAL,
    MIXTRAL,
    PHI2,
    PHI3,
    QWEN2,
    QWEN2_MOE,
    QWEN3,
    QWEN3_MOE,
    OLMOE,
    GEMMA2,
    GEMMA3,
    GEMMA3N,
    GEMMA4,
    DEEPSEEK,
    GLM47_FLASH,
    QWEN3_NEXT,
    QWEN35,
    QWEN35_MOE,
    GPT_OSS,
    SMOLLM3,
    GRANITE,
    GRANITE_MOE,
    MISTRAL4,
    MINISTRAL3,
    GLM4,
    GLM4_MOE,
    OLMO2,
    COMMAND_R,
    COHERE2,
    MINIMAX_M2,
    SEED_OSS,
    STARCODER2,
    LLAMA4,
    ERNIE,
    ERNIE_MOE,
    HUNYUAN_DENSE,
    DOTS1,
    EXAONE4,
    GRANITE_HYBRID,
    GRANITE4,
    FALCON_H1,
    NEMOTRON_H,
    NEMOTRON_H_MOE,
    LFM2,
    LFM2_MOE,
)
