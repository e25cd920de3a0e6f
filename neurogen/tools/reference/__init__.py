"""The oracle: the equations of a spec, evaluated as they stand, one time step after the other.

In: the YAML text of a (valid) spec and the arguments a node's constructor would get.
Out: `Reference.run`: outputs, states and every decision taken, in plain eager torch on the CPU;
gradients are torch autograd's, so nothing here derives anything.
Separate from everything: it judges what the compiler made, so it imports nothing of this package
but itself. It reads the YAML, parses equations with `ast` and has its own table of surrogates.
What it does not understand is a `ValueError`, never a guess.

    neuron = Reference(Path("specs/lif.yaml").read_text(), tau=tau, surrogate="atan")
    run = neuron.run(x, dtype=torch.float32)
    oracle = neuron.run(x, dtype=torch.float64, forced=run.decisions)
    oracle.outputs.backward(gradient.double())

`stepper` is what a neuron does, `dynamics` its differential equations, `kernels` its response
kernels; `reading` takes entries of a spec, `syntax` texts of equations; `equations` is what an
expression is worth, `curves` the surrogates.
"""

from neurogen.tools.reference.stepper import Reference, Run

__all__ = ["Reference", "Run"]
