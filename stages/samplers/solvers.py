"""The rules that follow the flow from wherever they start: what a rule that does more than that goes on with."""

from stages.samplers.bdia import BDIA
from stages.samplers.conjugate import Conjugate
from stages.samplers.dc_solver import DCSolver
from stages.samplers.deis import DEIS
from stages.samplers.dpm_solver_v3 import DPMSolverV3
from stages.samplers.dpmpp_2m import Dpmpp2M
from stages.samplers.dpmpp_2m_sde import Dpmpp2MSDE
from stages.samplers.dpmpp_2s import Dpmpp2S
from stages.samplers.dpmpp_3m import Dpmpp3M
from stages.samplers.er_sde import ERSDE
from stages.samplers.euler import Euler
from stages.samplers.gradient_estimation import GradientEstimation
from stages.samplers.heun import Heun
from stages.samplers.momentum import Momentum
from stages.samplers.pndm import PNDM
from stages.samplers.pseudo_corrector import PseudoCorrector
from stages.samplers.sa_solver import SASolver
from stages.samplers.unipc import UniPC
from stages.samplers.usf import USF

_Extrapolated = BDIA | PNDM | Momentum | GradientEstimation | Conjugate
_Multistep = Dpmpp2M | Dpmpp2S | Dpmpp3M | Dpmpp2MSDE | UniPC | DEIS | ERSDE | SASolver | DPMSolverV3 | DCSolver | USF
Solver = Euler | Heun | PseudoCorrector | _Extrapolated | _Multistep
