from scalespace import FlexiTransformer, FlexiUNet, PretrainedUNet, ScaleSpacePipeline, ScaleSpaceScheduler
