"""What other code calls the parameters of a training, to suggest ours."""

SYNONYMS = {
    word: names
    for names, words in {
        "preset": "config cfg base template",
        "run": "name run_name output out outdir output_dir out_dir logdir log_dir exp_name experiment_name",
        "data": "dataset data_dir dataset_dir data_path dataroot root path folder images",
        "image_size": "resolution res size imsize img_size imgsize image_resolution imres",
        "num_classes": "classes n_classes nclass nclasses class_count num_labels conditional",
        "skip_unreadable": "skip_bad skip_broken ignore_unreadable",
        "augment": "aug augmentation flip hflip mirror diffaug diffaugment",
        "width": "ch channels base_channels nf ngf filters num_filters conv_dim hidden width_g",
        "width_d": "ndf d_ch d_channels channels_d",
        "z_dim": "latent_dim latent latent_size nz z dim_z zdim noise_dim",
        "attention_g attention_d": "attention attn self_attention attention_sites attention_layers attention_resolutions",
        "attention_g": "g_attn attn_g g_attention",
        "attention_d": "d_attn attn_d d_attention",
        "sn_g sn_d": "sn spectral_norm spectral_normalization use_sn",
        "batch_norm_group": "bn_group ghost_batch ghost_bn virtual_batch bn_size",
        "batch_norm_momentum": "bn_momentum momentum",
        "batch_norm_eps": "bn_eps norm_eps",
        "init": "initialization initialisation init_type weight_init g_init d_init",
        "lr_g lr_d": "lr lrs learning_rate rate adam_lr",
        "lr_g": "g_lr lrg generator_lr lr_generator learning_rate_g",
        "lr_d": "d_lr lrd discriminator_lr lr_discriminator learning_rate_d",
        "beta1 beta2": "beta betas adam_betas",
        "beta1": "b1 adam_beta1 beta_1",
        "beta2": "b2 adam_beta2 beta_2",
        "d_steps": "n_dis d_iters d_iter n_critic ncritic critic_iters critic_steps num_d_steps disc_steps",
        "batch_size": "batch bs batchsize batch_sz minibatch train_batch_size",
        "gradient_accumulation": "accumulation accum accumulate grad_accum accumulation_steps grad_accum_steps gradient_accumulation_steps",
        "steps": "iterations iteration iters iter max_steps num_steps n_steps n_iter n_iters niter num_iters max_iter max_iters num_iterations "
        "n_iterations max_iterations total_iterations iteration_count total_steps total_iters "
        "train_steps g_steps epochs epoch num_epochs n_epochs max_epochs nimg kimg",
        "ema_decay": "ema ema_beta ema_rate averaging",
        "seed": "random_seed manual_seed rng_seed random_state",
        "num_processes": "gpus num_gpus n_gpus ngpu gpu_count nproc nprocs processes world_size nproc_per_node",
        "device": "gpu cuda cpu use_cuda accelerator",
        "mixed_precision": "fp16 bf16 amp precision half autocast use_amp tf32",
        "log_every": "log_freq log_interval log_step log_steps print_every",
        "sample_every": "sample_freq sample_interval sample_step",
        "checkpoint_every": "save_every save_freq save_interval ckpt_every checkpoint_freq checkpoint_interval model_save_step",
        "keep_checkpoints": "keep max_to_keep save_total_limit num_checkpoints",
        "evaluate_every": "eval_every eval_freq eval_interval fid_every evaluate",
        "evaluate_n": "n eval_n fid_n num_fid n_samples num_samples",
        "evaluate_extractor": "extractor fid_extractor feature_extractor inception",
        "resume": "checkpoint ckpt restore load continue fork resume_from pretrained init_from",
        "note": "notes comment description message",
        "tags": "tag label labels keywords",
        # These have no parameter here, though one has a similar name.
        "": "weight_decay lr_decay decay eps crop_size warmup_steps num_heads depth port project prefetch",
    }.items()
    for word in words.split()
}  # fmt: skip
